"""Live transcription with a network for whole utterances: the utterance so far is transcribed again and again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np

from edgeexit.errors import BackendMissing, DataError
from edgeexit.speech.endpoint import End, EndpointRules
from edgeexit.speech.features import Samples, checked
from edgeexit.speech.offline import Transcriber
from edgeexit.speech.transcript import Part


class LiveText(NamedTuple):
    """Transcript of an utterance so far."""

    part: Part
    end: End | None
    """Reason why it is over; None = it goes on, and the text may still change."""


def listen(
    transcriber: Transcriber,
    blocks: Iterable[Samples],
    rules: EndpointRules | None = None,
    every_s: float = 0.5,
) -> Iterator[LiveText]:
    """Transcribe sound as it arrives, utterance by utterance.

    The network runs on the utterance from its beginning every time, which is exact for any network and cheap for small
    ones: at half a second and utterances of a few seconds, ten times the cost of running once.

    Args:
        transcriber: with windows at least as long as the longest utterance.
        blocks: float32 `(n,)` each, at the transcriber's rate.
        rules: end of an utterance; None = the usual rules, no longer than the transcriber's windows.
        every_s: seconds between two runs.

    Yields:
        the text so far, then the same with its end; utterances without a word are left out.
    """
    if rules is None:
        rules = EndpointRules(longest_s=min(EndpointRules.longest_s, transcriber.longest_s))
    if rules.longest_s > transcriber.longest_s or not 0 < every_s <= rules.longest_s:
        raise DataError(
            f"an utterance of up to {rules.longest_s:g} s, looked at every {every_s:g} s, must fit the transcriber's "
            f"windows of {transcriber.longest_s:g} s"
        )
    rate = transcriber.rate
    step, most = max(1, round(every_s * rate)), int(rules.longest_s * rate)
    start, held, looked = 0, np.zeros(0, np.float32), 0
    for block in blocks:
        held = np.concatenate([held, checked(block)])
        while len(held) >= min(looked + step, most):
            looked = min(looked + step, most)
            part = transcriber.part(held[:looked], start / rate)
            end = rules.ended(looked / rate, part.silent_seconds, bool(part.text))
            if part.text:
                yield LiveText(part, end)
            if end is not None:
                # The silence stays, as the next word may have begun in it.
                over = looked - min(step, int(part.silent_seconds * rate) // 2)
                start, held, looked = start + over, held[over:], 0
    if len(held):
        part = transcriber.part(held, start / rate)
        if part.text:
            yield LiveText(part, "pause")


def microphone(rate: int, block_s: float = 0.1) -> Iterator[Samples]:
    """Blocks from the default microphone until it is closed or interrupted.

    Raises:
        BackendMissing: sounddevice, or the PortAudio library that it needs, is not installed.
        DataError: there is no microphone, or it cannot record at this rate.
    """
    try:
        import sounddevice
    except (ImportError, OSError) as e:  # OSError: the package is there, the library is not
        raise BackendMissing(
            f"listening to a microphone needs sounddevice and PortAudio ({e}): pip install 'edgeexit[mic]', and on "
            "Linux apt install libportaudio2; or record a .wav and pass that"
        ) from e
    return _recorded(sounddevice, rate, round(block_s * rate))


def _recorded(sounddevice: Any, rate: int, block: int) -> Iterator[Samples]:
    try:
        with sounddevice.InputStream(rate, block, channels=1, dtype="float32") as stream:
            while True:
                samples, _ = stream.read(block)
                yield np.ascontiguousarray(samples[:, 0])
    except sounddevice.PortAudioError as e:
        raise DataError(f"the microphone cannot be read at {rate} Hz: {e}; record a .wav and pass that") from e
