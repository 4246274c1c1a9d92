"""What a page of HTML leaves open, for the tests of reports."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class _Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            self.wrong.append(f"{self.getpos()}: </{tag}> within {self.open}")


def unbalanced(page: str) -> list[str]:
    """Tags that are closed and were not open, and those that are open at the end."""
    tags = _Tags()
    tags.feed(page)
    tags.close()
    return [*tags.wrong, *tags.open]
