"""Markdown that a stranger may have written, made fit for a comment under the project's name.

What is left of it: headings, emphasis, tables, lists, code, and Mermaid charts of numbers. It can name
nobody, link nowhere, show no picture and carry no HTML.
"""

import re
import unicodedata

# GitHub takes 65,536 characters a comment.
MOST = 60_000

# Breaks a word that GitHub would turn into a link or a mention, and is not seen.
_BREAK = "\u200b"

_CHART = re.compile(
    r"""%%\{init:\ \{"themeVariables":\ \{"xyChart":\ \{"plotColorPalette":\ "[#0-9a-f, ]{1,80}"\}\}\}\}%%
      | xychart-beta
      | \ {4}title\ "[\w .,:%()-]{1,80}"
      | \ {4}[xy]-axis\ "[\w .,%()-]{1,40}"\ -?[\d.]{1,12}\ -->\ -?[\d.]{1,12}
      | \ {4}line\ \[[\d., e+-]{1,2000}\]""",
    re.VERBOSE | re.ASCII,
)
# Between single backticks: longer runs of them are no code here, and are escaped.
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_WORDS = {"@": "@" + _BREAK, "://": ":" + _BREAK + "//", "#": "#" + _BREAK}


def sanitise(content: bytes) -> str:
    """The text of a report that may be hostile.

    Args:
        content: UTF-8, else what cannot be read is replaced; beyond `MOST` characters it is cut.
    """
    text = content[: 4 * MOST].decode("utf-8", "replace")
    text = "".join(letter for letter in text if letter == "\n" or _is_plain(letter))
    lines = _lines(text.split("\n"))
    whole = "\n".join(lines)
    if len(whole) <= MOST and len(content) <= 4 * MOST:
        return whole
    kept = whole[:MOST].rsplit("\n", 1)[0]
    fence = "\n```" if sum(line.startswith("```") for line in kept.split("\n")) % 2 else ""
    return f"{kept}{fence}\n\nThe report goes on; it was cut here."


def _is_plain(letter: str) -> bool:
    """Letters that show as themselves: no control, format (right-to-left, say), private or lone surrogate."""
    return unicodedata.category(letter) not in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")


def _lines(lines: list[str]) -> list[str]:
    made: list[str] = []
    rest = iter(lines)
    for line in rest:
        if not line.startswith("```"):
            made.append(_prose(line))
            continue
        inside = []
        for inner in rest:
            if inner.startswith("```"):
                break
            inside.append(inner)
        chart = line == "```mermaid" and all(_CHART.fullmatch(inner) for inner in inside)
        made.append("```mermaid" if chart else "```text")
        # What could close the fence early, indented or not, is no longer a fence.
        made += [inner.replace("```", "'''") for inner in inside]
        made.append("```")
    return made


def _prose(line: str) -> str:
    """One line outside of fences: its code spans kept as code, the rest escaped."""
    parts: list[str] = []
    done = 0
    for span in _SPAN.finditer(line):
        parts += [_escaped(line[done : span.start()]), f"`{_in_code(span[1])}`"]
        done = span.end()
    return "".join([*parts, _escaped(line[done:])])


def _escaped(text: str) -> str:
    for letter in "\\`[]$~":
        text = text.replace(letter, "\\" + letter)
    text = text.replace("&", "&amp;").replace("<", "&lt;")
    for word, broken in _WORDS.items():
        text = text.replace(word, broken)
    # Headings keep their mark: a break after the last # would make them prose.
    text = re.sub(rf"^((?:#{_BREAK})+)(?= )", lambda found: found[1].replace(_BREAK, ""), text)
    return re.sub(r"(?i)\b(www|gh)(?=[.-])", rf"\1{_BREAK}", text)


def _in_code(text: str) -> str:
    """What stands between backticks, harmless even where the backticks should not pair as they seem to."""
    for letter, alike in (("|", "¦"), ("<", "\u2039"), (">", "\u203a"), ("\\", "\u29f5")):
        text = text.replace(letter, alike)
    return text.replace("](", f"]{_BREAK}(").replace("@", "@" + _BREAK)
