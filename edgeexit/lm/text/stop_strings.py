"""Stop strings in streamed text: matched at their last character, never emitted in part."""

from __future__ import annotations

from collections.abc import Sequence

from edgeexit.errors import DataError


class StopStrings:
    """Filters streamed text: releases text that cannot belong to a stop string.

    The first complete string ends the text, the longest of several that end at one character; so the end of a text
    does not depend on its pieces. A character costs one step per stop string.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises: DataError for an empty stop string."""
        if any(not s for s in stops):
            raise DataError("a stop string is empty")
        self._stops = tuple(dict.fromkeys(stops))
        self._back = [_borders(s) for s in self._stops]
        self._matched = [0] * len(self._stops)
        """Characters of each that the text ends with."""
        self._held = ""
        self.stopped = False

    def add(self, new: str) -> str:
        """Add text; returns what is certain now. After a stop string `stopped` is set and nothing more is returned."""
        if self.stopped:
            return ""
        for i, letter in enumerate(new if self._stops else ""):
            if ended := self._step(letter):
                text = self._held + new[: i + 1]
                self.stopped, self._held = True, ""
                return text[: len(text) - ended]
        text = self._held + new
        certain = len(text) - max(self._matched, default=0)
        self._held = text[certain:]
        return text[:certain]

    def rest(self) -> str:
        """Return the text that was held back, at the end."""
        rest, self._held = self._held, ""
        return rest

    def _step(self, letter: str) -> int:
        """Length of the longest stop string that ends with this character; 0 = none."""
        ended = 0
        for j, stop in enumerate(self._stops):
            matched = self._matched[j]
            while matched and stop[matched] != letter:
                matched = self._back[j][matched - 1]
            matched += stop[matched] == letter
            if matched == len(stop):
                ended = max(ended, matched)
                matched = self._back[j][-1]
            self._matched[j] = matched
        return ended


def _borders(stop: str) -> list[int]:
    """For each beginning of a string, the length of its longest shorter beginning that it also ends with."""
    borders, length = [0], 0
    for letter in stop[1:]:
        while length and stop[length] != letter:
            length = borders[length - 1]
        length += stop[length] == letter
        borders.append(length)
    return borders
