"""Connected digits in babble and noise, mixed from the Free Spoken Digit Dataset (CC BY-SA 4.0).

Six people said every digit 50 times (8 kHz). An utterance is 1 to 7 clips of one person with pauses, two other
voices in the background that also speak digits, white noise, and a random level. Speakers are disjoint: no voice of
the training set is in `TEST`, not even in the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from edgeexit.common.files import read_npz
from edgeexit.errors import BackendMissing, DataError
from edgeexit_models.speech.augment import Samples, at_speed
from edgeexit_models.speech.digits import SPEECH, WORDS

RATE = SPEECH.features.sample_rate

TRAIN = ("jackson", "nicolas", "theo", "yweweler")
DEV = ("lucas",)
TEST = ("george",)

Voice = Sequence[Sequence[Samples]]
"""Clips of one speaker: ten lists, by digit."""


@dataclass(frozen=True)
class Mixture:
    """Uniform ranges that every utterance's parameters are drawn from."""

    digits: tuple[int, int] = (1, 7)
    pause_seconds: tuple[float, float] = (0.03, 0.35)
    """Before, between and behind digits."""
    babble_db: tuple[float, float] = (0.0, 25.0)
    """Power of the speaker over that of both voices behind."""
    noise_db: tuple[float, float] = (-5.0, 30.0)
    """Power of the speaker over that of white noise."""
    level_db: tuple[float, float] = (-32.0, -16.0)
    """Mean power of the utterance, 0 = full scale."""
    clean: float = 0.0
    """Share of utterances without babble and with 30 dB less noise."""


HARD = Mixture()
"""For the fixed dev and test sets."""
CLEAN = Mixture(clean=1.0)
TRAINING = Mixture(clean=0.2)
SPEEDS = (0.85, 0.92, 1.0, 1.08, 1.16)
"""Factors on tempo and pitch: every training speaker at every speed counts as a speaker (as in Kaldi's recipes)."""


@dataclass(frozen=True)
class Utterance:
    """One utterance: samples, digits and mixing levels."""

    samples: Samples
    digits: tuple[int, ...]
    speaker: str
    babble_db: float | None
    """None = no other voices."""
    noise_db: float

    @property
    def tokens(self) -> tuple[int, ...]:
        """Numbers in `SPEECH.tokens`."""
        return tuple(digit + 1 for digit in self.digits)

    @property
    def text(self) -> str:
        """The words."""
        return " ".join(WORDS[digit] for digit in self.digits)


def load(folder: Path) -> dict[str, Voice]:
    """Reads `audio.flac` and `meta.npz` (start, length, y, speaker; one row per clip), all clips in a row.

    Raises:
        BackendMissing: soundfile is not installed.
        DataError: the files are not there or do not fit each other.
    """
    try:
        import soundfile
    except ImportError as e:
        raise BackendMissing("reading flac needs soundfile: pip install soundfile") from e
    try:
        with np.load(folder / "meta.npz", allow_pickle=False) as file:
            meta = {name: file[name] for name in ("start", "length", "y", "speaker")}
        audio, rate = soundfile.read(str(folder / "audio.flac"), dtype="float32")
    except (OSError, ValueError, KeyError, BadZipFile, RuntimeError) as e:
        raise DataError(f"{folder}: need audio.flac and meta.npz with start, length, y, speaker ({e})") from e
    if rate != RATE or audio.ndim != 1 or int((meta["start"] + meta["length"]).max()) > len(audio):
        raise DataError(
            f"{folder}: expected one channel at {RATE} Hz that holds all clips, found {audio.shape} at {rate}"
        )
    voices: dict[str, list[list[Samples]]] = {}
    for start, length, digit, speaker in zip(*(meta[n] for n in ("start", "length", "y", "speaker")), strict=True):
        clip = audio[int(start) : int(start) + int(length)]
        voices.setdefault(str(speaker), [[] for _ in WORDS])[int(digit)].append(clip)
    missing = [name for name in (*TRAIN, *DEV, *TEST) if not all(voices.get(name, [[]]))]
    if missing:
        raise DataError(f"{folder}: no clips of some digits by {', '.join(missing)}")
    return dict(voices)


def load_crowd(path: Path) -> dict[str, dict[str, Voice]]:
    """More voices to train on, as `recipes/asr-digits-fsdd/crowd.py` writes them: group -> voice -> clips.

    Raises:
        DataError: not such a file, or a voice without some digit.
    """
    arrays = read_npz(path)
    if lacking := [n for n in ("samples", "starts", "digits", "voices", "sample_rate") if n not in arrays]:
        raise DataError(f"{path}: no {lacking[0]!r} in it; crowd.py writes such a file")
    if int(arrays["sample_rate"]) != RATE:
        raise DataError(f"{path}: {arrays['sample_rate']} Hz, expected {RATE}")
    starts = arrays["starts"]
    groups: dict[str, dict[str, list[list[Samples]]]] = {}
    for i, (digit, voice) in enumerate(zip(arrays["digits"].tolist(), arrays["voices"].tolist(), strict=True)):
        clips = groups.setdefault(voice.split("/")[0], {}).setdefault(voice, [[] for _ in WORDS])
        clips[digit].append(arrays["samples"][starts[i] : starts[i + 1]])
    for group in groups.values():
        for voice, clips in group.items():
            if missing := [WORDS[d] for d, takes in enumerate(clips) if not takes]:
                raise DataError(f"{path}: voice {voice!r} never says {missing[0]!r}")
    return {group: dict(members) for group, members in groups.items()}


def training_voices(
    voices: Mapping[str, Voice], crowd: Mapping[str, Mapping[str, Voice]] | None = None
) -> dict[str, dict[str, Voice]]:
    """Every speaker of `TRAIN`, and every voice of the crowd, at all `SPEEDS`: speaker -> name with speed -> voice."""
    groups: dict[str, Mapping[str, Voice]] = {name: {name: voices[name]} for name in TRAIN}
    return {
        group: {
            f"{name} x{speed}": [[at_speed(clip, speed) for clip in takes] for takes in voice]
            for name, voice in members.items()
            for speed in SPEEDS
        }
        for group, members in {**groups, **(crowd or {})}.items()
    }


def mix(
    rng: np.random.Generator, speaker: str, voices: Mapping[str, Voice], behind: Sequence[str], m: Mixture
) -> Utterance:
    """One utterance of `speaker` with two of the voices `behind` it; all randomness from `rng`."""
    digits = tuple(int(d) for d in rng.integers(0, 10, rng.integers(m.digits[0], m.digits[1] + 1)))
    clips = [_clip(rng, voices[speaker], d) for d in digits]
    pauses = rng.uniform(*m.pause_seconds, len(digits) + 1)
    samples = _concatenated(clips, pauses)
    power = float(np.mean(np.concatenate(clips) ** 2)) + 1e-12
    clean = bool(rng.random() < m.clean)
    babble_db, noise_db = float(rng.uniform(*m.babble_db)), float(rng.uniform(*m.noise_db)) + 30.0 * clean
    if not clean:
        babble = _babble(rng, len(samples), voices, behind, m)
        samples = samples + babble * np.sqrt(power / 10 ** (babble_db / 10) / (np.mean(babble**2) + 1e-12))
    noise = rng.standard_normal(len(samples), np.float32)
    samples = samples + noise * np.sqrt(power / 10 ** (noise_db / 10))
    level = 10 ** (rng.uniform(*m.level_db) / 20)
    samples = np.clip(samples * (level / np.sqrt(np.mean(samples**2) + 1e-12)), -1, 1).astype(np.float32)
    return Utterance(samples, digits, speaker, None if clean else babble_db, noise_db)


def fixed_set(
    voices: Mapping[str, Voice], part: str, count: int = 300, seed: int = 0, m: Mixture = HARD
) -> list[Utterance]:
    """The utterances of `part`, "dev" or "test": the same for the same arguments.

    Behind the dev speaker are voices of `TRAIN`, behind the test speaker that of `DEV`.

    Raises:
        DataError: another part.
    """
    sides = {"dev": (DEV, TRAIN, 1), "test": (TEST, DEV, 2)}
    if part not in sides:
        raise DataError(f"part {part!r}: expected dev or test")
    speakers, behind, number = sides[part]
    utterances = []
    for i in range(count):
        rng = np.random.default_rng([seed, number, i])
        utterances.append(mix(rng, speakers[i % len(speakers)], voices, behind, m))
    return utterances


def training_utterances(
    voices: Mapping[str, Mapping[str, Voice]], seed: int, step: int, digits: int = 48
) -> list[Utterance]:
    """The utterances of one step, about `digits` digits in strings of one length (so that little is padding).

    Args:
        voices: from `training_voices`.
        seed: with `step` the only source of randomness.
        step: from 0.
        digits: at most 16 utterances, however short they are.
    """
    rng = np.random.default_rng([seed, 0, step])
    length = int(rng.integers(TRAINING.digits[0], TRAINING.digits[1] + 1))
    m = replace(TRAINING, digits=(length, length))
    return [_random_utterance(rng, voices, m) for _ in range(min(max(digits // length, 1), 16))]


def save(path: Path, utterances: Sequence[Utterance]) -> None:
    """Writes an npz without pickle: `samples` float32 of all utterances in a row, `starts` (n + 1,) int64 where each
    begins, `texts`, `speakers`, `babble_db` (NaN = no voices behind), `noise_db`, `sample_rate`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        np.savez_compressed(
            file,
            samples=np.concatenate([u.samples for u in utterances]),
            starts=np.cumsum([0, *(len(u.samples) for u in utterances)]),
            texts=np.array([u.text for u in utterances]),
            speakers=np.array([u.speaker for u in utterances]),
            babble_db=np.array([np.nan if u.babble_db is None else u.babble_db for u in utterances]),
            noise_db=np.array([u.noise_db for u in utterances]),
            sample_rate=np.int64(RATE),
        )


def _random_utterance(rng: np.random.Generator, voices: Mapping[str, Mapping[str, Voice]], m: Mixture) -> Utterance:
    speaker = sorted(voices)[rng.integers(len(voices))]
    others = {name: v for other, speeds in voices.items() if other != speaker for name, v in speeds.items()}
    name = sorted(voices[speaker])[rng.integers(len(voices[speaker]))]
    return mix(rng, name, {**others, name: voices[speaker][name]}, sorted(others), m)


def _clip(rng: np.random.Generator, voice: Voice, digit: int) -> Samples:
    return voice[digit][int(rng.integers(len(voice[digit])))]


def _concatenated(clips: Sequence[Samples], pauses: npt.NDArray[np.float64]) -> Samples:
    parts = [np.zeros(int(pauses[0] * RATE), np.float32)]
    for clip, pause in zip(clips, pauses[1:], strict=True):
        parts += [clip, np.zeros(int(pause * RATE), np.float32)]
    return np.concatenate(parts)


def _babble(
    rng: np.random.Generator, length: int, voices: Mapping[str, Voice], behind: Sequence[str], m: Mixture
) -> Samples:
    total = np.zeros(length, np.float32)
    for _ in range(2):
        name = behind[int(rng.integers(len(behind)))]
        at = -int(rng.integers(0, RATE // 2))
        while at < length:
            clip = _clip(rng, voices[name], int(rng.integers(10)))
            start, stop = max(at, 0), min(at + len(clip), length)
            if stop > start:
                total[start:stop] += clip[start - at : stop - at]
            at += len(clip) + int(rng.uniform(*m.pause_seconds) * RATE)
    return total
