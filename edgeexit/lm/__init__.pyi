"""The public names of `edgeexit.lm`, stated once; see `edgeexit.common.lazy`."""

from edgeexit.bundle.lm_spec import LmProof as LmProof
from edgeexit.bundle.lm_spec import LmSpec as LmSpec
from edgeexit.lm.batch import AnswerBatch as AnswerBatch
from edgeexit.lm.costs import Costs as Costs
from edgeexit.lm.decoding import AnswerProbe as AnswerProbe
from edgeexit.lm.generate import Answer as Answer
from edgeexit.lm.generate import Generation as Generation
from edgeexit.lm.generate import Piece as Piece
from edgeexit.lm.generate import answer as answer
from edgeexit.lm.loading import load_lm as load_lm
from edgeexit.lm.model import LanguageModel as LanguageModel
from edgeexit.lm.sampling import Sampler as Sampler
from edgeexit.lm.session import Session as Session
from edgeexit.lm.settings import Decoding as Decoding
from edgeexit.lm.tuning.consistency import certify as certify
from edgeexit.lm.tuning.measure_costs import measure as measure
from edgeexit.lm.tuning.tune import tune as tune
