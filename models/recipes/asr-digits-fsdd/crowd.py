"""Additional training voices: spoken digits of many people, and synthetic ones.

    python crowd.py --commands GSC --espeak ESPEAK --out crowd.npz

GSC is a folder with `audio.flac` (16 kHz, one second per clip) and `meta.npz` (`files`, `speaker`) of Speech Commands
v0.02 (CC BY 4.0): clips whose file names say a digit. ESPEAK is a folder with espeak-ng's library and data (the package
espeakng-loader holds both; GPL-3, what it says is free). Either may be left out. Nothing of FSDD's dev and test
speakers is in it.
"""

from __future__ import annotations

import argparse
import ctypes
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edgeexit.errors import DataError
from edgeexit.speech.resample import resample
from edgeexit_models.speech.augment import Samples
from edgeexit_models.speech.digits import WORDS
from recipes.common import argument_parser, run_command
from recipes.spoken_digits import RATE

GROUPS = 4
"""People who said one or two digits each make voices together: number of voices, each with every digit."""
ACCENTS = ("en-us", "en-gb-x-rp", "en-gb-scotland", "en-029")
VARIANTS = (*(f"m{i}" for i in range(1, 9)), *(f"f{i}" for i in range(1, 6)), "Denis", "edward", "caleb", "belinda",
            "antonio", "pablo", "quincy", "adam", "robert", "anika", "Gene")  # fmt: skip
SPEEDS, PITCHES = (120, 160, 200), (30, 50, 70)


def trimmed(clip: Samples, below_db: float = 30.0) -> Samples:
    """Without the quiet beginning and end: 20 ms pieces more than `below_db` under the loudest one."""
    size = RATE // 50
    power = np.square(clip[: len(clip) // size * size].reshape(-1, size)).mean(1)
    loud = np.flatnonzero(power > power.max() * 10 ** (-below_db / 10))
    return clip[max(loud[0] - 1, 0) * size : (loud[-1] + 2) * size]


def commands(folder: Path) -> list[tuple[str, int, Samples]]:
    """(voice, digit, clip at 8 kHz); people are grouped so that every voice has every digit."""
    try:
        import soundfile

        files = np.load(folder / "meta.npz", allow_pickle=False)["files"]
        audio, rate = soundfile.read(str(folder / "audio.flac"), dtype="float32")
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as e:
        raise DataError(f"{folder}: need soundfile, and audio.flac and meta.npz with `files` ({e})") from e
    clips, counts = [], [0] * len(WORDS)
    for i, name in enumerate(files):
        parts = str(name).split("/")  # "zero/2fa39636_nohash_0.wav", or "_unknown_/zero_2fa39636_nohash_0.wav"
        word = next((d for d, w in enumerate(WORDS) if w in (parts[0], parts[-1].split("_")[0])), None)
        if word is None:
            continue
        clip = resample(audio[i * rate : (i + 1) * rate], rate, RATE)
        clips.append((f"crowd {counts[word] % GROUPS}", word, trimmed(clip)))
        counts[word] += 1
    return clips


class Espeak:
    """Speech synthesis by espeak-ng's library, called directly."""

    def __init__(self, folder: Path) -> None:
        libraries = sorted(folder.rglob("libespeak-ng.so*"))
        data = next(iter(sorted(folder.rglob("espeak-ng-data"))), None)
        if not libraries or data is None:
            raise DataError(f"{folder}: no libespeak-ng.so and espeak-ng-data in it")
        self.library = ctypes.CDLL(str(libraries[0]))
        self.pieces: list[npt.NDArray[np.int16]] = []
        kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p)
        self._callback = kind(self._collect)  # must outlive the library's use of it
        self.rate = self.library.espeak_Initialize(2, 0, str(data).encode(), 0)  # 2 = return the sound, synchronously
        self.library.espeak_SetSynthCallback(self._callback)

    def _collect(self, sound: ctypes._Pointer[ctypes.c_short], n: int, _: object) -> int:
        if sound and n > 0:
            self.pieces.append(np.ctypeslib.as_array(sound, (n,)).copy())
        return 0

    def say(self, word: str, voice: str, speed: int, pitch: int) -> Samples | None:
        """The word at 8 kHz; None = there is no such voice."""
        self.pieces.clear()
        if self.library.espeak_SetVoiceByName(voice.encode()):
            return None
        self.library.espeak_SetParameter(1, speed, 0)
        self.library.espeak_SetParameter(3, pitch, 0)
        text = word.encode() + b"\0"
        self.library.espeak_Synth(text, len(text), 0, 1, 0, 1, None, None)
        self.library.espeak_Synchronize()
        if not self.pieces:
            return None
        return trimmed(resample(np.concatenate(self.pieces).astype(np.float32) / 32768, self.rate, RATE))


def synthetic(folder: Path) -> list[tuple[str, int, Samples]]:
    """(voice, digit, clip); a voice is an accent with a variant, every digit at three speeds and pitches."""
    espeak = Espeak(folder)
    clips = []
    for i, variant in enumerate(VARIANTS):
        voice = f"{ACCENTS[i % len(ACCENTS)]}+{variant}"
        for digit, word in enumerate(WORDS):
            for speed, pitch in zip(SPEEDS, PITCHES, strict=True):
                clip = espeak.say(word, voice, speed, pitch)
                if clip is not None and len(clip) > RATE // 10:
                    clips.append((f"synthetic {i % GROUPS}/{voice}", digit, clip))
    return clips


def run(args: argparse.Namespace) -> None:
    """Collects the clips and writes the npz."""
    clips = [*(commands(args.commands) if args.commands else []), *(synthetic(args.espeak) if args.espeak else [])]
    if not clips:
        raise DataError("no voices: name --commands or --espeak")
    voices, words, samples = zip(*clips, strict=True)
    np.savez_compressed(
        args.out,
        samples=np.concatenate(samples),
        starts=np.cumsum([0, *map(len, samples)]),
        digits=np.array(words),
        voices=np.array(voices),
        sample_rate=np.int64(RATE),
    )
    print(f"{args.out}: {len(clips)} clips, {len(set(voices))} voices, {sum(map(len, samples)) / RATE:.0f} s")


def main() -> None:
    """The command line."""
    parser = argument_parser(__doc__)
    parser.add_argument("--commands", type=Path, metavar="GSC", help="folder with audio.flac and meta.npz")
    parser.add_argument("--espeak", type=Path, metavar="ESPEAK", help="folder with espeak-ng's library and data")
    parser.add_argument("--out", type=Path, required=True, help="npz to write")
    run_command(run, parser.parse_args())


if __name__ == "__main__":
    main()
