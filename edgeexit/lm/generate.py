"""Generation from a prompt: one loop for every decoding method; yields pieces, then a result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgeexit.errors import DataError
from edgeexit.lm.costs import Costs
from edgeexit.lm.decoding import Round, StopCheck, method_of
from edgeexit.lm.model import LanguageModel, NonFiniteLogits
from edgeexit.lm.sampling import Chooser, Greedy
from edgeexit.lm.session import Session, check_prompt
from edgeexit.lm.settings import Decoding
from edgeexit.lm.text.tokenizer import Text, Writing, encoded, text_of

Reason = Literal["length", "context", "end", "stop", "answered", "interrupted"]


@dataclass(frozen=True)
class Piece:
    """Tokens and text of one round."""

    ids: tuple[int, ...]
    text: str
    """"" without a tokenizer, or while a character or a stop string may be unfinished."""


@dataclass(frozen=True)
class Generation:
    """An answer, and the statistics of its decoding."""

    ids: tuple[int, ...]
    """The new tokens, an end token included."""
    text: str | None
    """None = there is no tokenizer."""
    reason: Reason
    """length: as many tokens as asked for. context: no room. end: the model ended it. stop: a stop string. answered: a
    stop check was confident. interrupted: the caller stopped."""
    setting: Decoding
    same: bool | None
    """It is the text of plain decoding, token for token, as proved for this artifact on export. False = disproved in
    general, or another text by design; None = not tested."""
    rounds: int
    drafted: int
    accepted: int
    exits: tuple[int, ...]
    """`(exits,)` rounds that drafted from each exit or left there; the last = neither."""
    prompt_tokens: int
    prompt_seconds: float
    seconds: float
    """Of decoding: the rounds alone, without the prompt and without making text."""

    @property
    def tokens_per_second(self) -> float | None:
        """Of decoding; None = no tokens."""
        return len(self.ids) / self.seconds if self.ids and self.seconds > 0 else None

    @property
    def acceptance(self) -> float | None:
        """Share of drafted tokens that were accepted; None = none were drafted."""
        return self.accepted / self.drafted if self.drafted else None


def answer(
    model: LanguageModel, prompt: str | Sequence[int], setting: Decoding | None = None, **options: Any
) -> Answer:
    """Answer a prompt, text or token ids; for text, pieces have text by the model's own tokenizer.

    Args:
        model: the model.
        prompt: text or token ids to continue.
        setting: how to decode; None = plain decoding.
        **options: those of `Answer`.

    Raises:
        DataError: as `Answer`; or text, and the model has no tokenizer.
        BackendMissing: text, and the tokenizers library is not installed.
    """
    if not isinstance(prompt, str):
        return Answer(model, prompt, setting, **options)
    text = text_of(model)
    return Answer(model, encoded(model, text, prompt), setting, text=text, **options)


class Answer:
    """An answer in progress: iterate over its pieces, then read its `result`. It may be stopped at any time."""

    def __init__(
        self,
        model: LanguageModel,
        prompt: Sequence[int],
        setting: Decoding | None = None,
        *,
        max_tokens: int = 128,
        chooser: Chooser | None = None,
        costs: Costs | None = None,
        text: Text | None = None,
        stops: Sequence[str] = (),
        check: StopCheck | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Nothing is computed before the first piece.

        Args:
            model: the model.
            prompt: token ids, at least one.
            setting: how to decode; None = plain decoding.
            max_tokens: the most new tokens.
            chooser: sampling strategy; None = the most probable token.
            costs: this device's, for `del`.
            text: the tokenizer; None = pieces have ids only.
            stops: strings that end the answer.
            check: stop check, tried after the tokens that it names.
            clock: seconds; tests inject one.

        Raises:
            DataError: an empty or too long prompt, unknown tokens, stop strings without a tokenizer, no room.
        """
        if max_tokens < 1:
            raise DataError(f"max tokens {max_tokens}: expected at least 1")
        self.model, self.setting, self.max_tokens = model, setting or Decoding(), max_tokens
        if check is not None and self.setting.method == "skip":
            raise DataError("a stop check goes back in the text, and skip cannot: choose another method")
        self.chooser = chooser or Greedy()
        self.prompt = list(prompt)
        self.session = Session(model)
        check_prompt(model, self.prompt)
        total = min(max_tokens, model.spec.context - len(self.prompt))
        self._method = method_of(model, self.chooser, self.setting, total, costs)
        self._writing = Writing(model.spec.eos, text, stops, self.prompt)
        self._check, self._clock = check, clock
        self.ids: list[int] = []
        self._reason: Reason = "interrupted"
        self._rounds = self._drafted = self._accepted = 0
        self._exits = [0] * model.count
        self._prompt_seconds = self._seconds = 0.0
        self._started = False

    def __iter__(self) -> Iterator[Piece]:
        """Yield the pieces, once.

        Raises:
            NonFiniteLogits: no token can be picked; the message names the token and the stage.
        """
        if self._started:
            raise DataError("an answer is given once: make a new one")
        self._started = True
        before = self._clock()
        self.session.prompt(self.prompt)
        self._prompt_seconds = self._clock() - before
        while (left := self._left()) > 0:
            before = self._clock()
            try:
                done = self._method.round(self.session, left)
            except NonFiniteLogits as e:
                raise self.session.explained(e, len(self.ids) + 1) from e
            self._seconds += self._clock() - before
            self._count(done)
            piece, going = self._taken(done.ids, left)
            if not going:
                yield Piece(piece.ids, piece.text + self._writing.rest())
                return
            yield piece
        self._reason = "length" if len(self.ids) >= self.max_tokens else "context"
        if rest := self._writing.rest():
            yield Piece((), rest)

    def run(self) -> Generation:
        """Decode to the end."""
        for _ in self:
            pass
        return self.result

    @property
    def result(self) -> Generation:
        """The answer so far; of one that was stopped early the reason is `interrupted`."""
        return Generation(
            tuple(self.ids), self._writing.text, self._reason, self.setting,
            self._same(), self._rounds, self._drafted, self._accepted, tuple(self._exits),
            len(self.prompt), self._prompt_seconds, self._seconds,
        )  # fmt: skip

    def _left(self) -> int:
        """Tokens that may still come."""
        return min(self.max_tokens - len(self.ids), self.model.spec.context - len(self.session.ids))

    def _count(self, done: Round) -> None:
        self._rounds += 1
        self._drafted += done.drafted
        self._accepted += done.accepted
        self._exits[done.exit] += 1

    def _taken(self, new: Sequence[int], left: int) -> tuple[Piece, bool]:
        """Take a round's tokens one by one, as any of them may end the answer."""
        taken: list[int] = []
        parts: list[str] = []
        start = len(self.session.ids) - len(new)
        going = True
        for i, token in enumerate(new):
            if self._check is not None and self._check.asks(token):
                ended = self._tried(start + i, token, left - i)
                taken.extend(ended or [token])
                parts.extend(map(self._writing.add, ended or [token]))
                going = ended is None and not self._over()
                if ended is not None:
                    self._reason = "answered"
                break
            taken.append(token)
            parts.append(self._writing.add(token))
            if self._over():
                self.session.back(start + i + 1)
                going = False
                break
        self.ids.extend(taken)
        return Piece(tuple(taken), "".join(parts)), going

    def _over(self) -> bool:
        if self._writing.ended is not None:
            self._reason = self._writing.ended
        return self._writing.ended is not None

    def _tried(self, place: int, token: int, room: int) -> list[int] | None:
        """Try the stop check at the token of this place; if it fails, the session is rolled back."""
        assert self._check is not None
        self.session.back(place)
        before = self._clock()
        try:
            ended = self._check.tried(self.session, room)
        except NonFiniteLogits as e:
            raise self.session.explained(e, len(self.ids) + 1) from e
        self._seconds += self._clock() - before
        if ended is None:
            self.session.accept(place, token)
        return ended

    def _same(self) -> bool | None:
        if self.setting.lossy or self._check is not None or not self.chooser.greedy:
            return self.setting.method == "greedy" and self._check is None
        return True if self.setting.block == 1 else self.model.proved(self.setting.block)
