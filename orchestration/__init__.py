"""Commands for schedulers and containers: stage graph, run of one stage, work folder, push to a store."""
