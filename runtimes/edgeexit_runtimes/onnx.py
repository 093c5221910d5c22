"""Engine for ONNX files: onnxruntime."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edgeexit.errors import BundleError, DataError, first_line


class OnnxBackend:
    """Runs ``.onnx`` files on the CPU with onnxruntime."""

    def check(self) -> str | None:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as e:
            return f"'onnx' artifacts need onnxruntime ({e}): pip install 'edgeexit[onnx]'"
        return None

    def version(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def load(self, path: Path, threads: int) -> Sequence[OnnxRunnable]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Spinning workers win microseconds and burn a core between inputs; a small device cannot spare it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if _shared_memory():
            options.add_session_config_entry("session.use_env_allocators", "1")
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as e:  # onnxruntime's own classes derive from Exception only
            raise BundleError(f"{path}: onnxruntime cannot load it: {first_line(e)}") from e
        return [OnnxRunnable(session)]


@functools.cache
def _shared_memory() -> bool:
    """Registers one memory arena for all sessions of this process; False where that is not possible.

    With an arena each, the stages of a chain evict each other's memory from the cache: four of a small Conformer took
    14 % longer than the same network in one file, and 5 % with this.
    """
    import onnxruntime

    kind = onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR
    place = onnxruntime.OrtMemoryInfo("Cpu", kind, 0, onnxruntime.OrtMemType.DEFAULT)
    try:
        onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(0, -1, -1, -1))
    except Exception:  # the process has registered one of its own, whose size we should not rely on
        return False
    return True


class OnnxRunnable:
    """One onnxruntime session."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.inputs = tuple(i.name for i in session.get_inputs())
        self.outputs = tuple(o.name for o in session.get_outputs())
        self._names = list(self.outputs)
        self._run = session.run

    def run(self, values: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            outputs: list[NDArray[Any]] = self._run(self._names, dict(zip(self.inputs, values, strict=True)))
        except Exception as e:
            raise DataError(f"onnxruntime refused the input: {first_line(e)}") from e
        return outputs
