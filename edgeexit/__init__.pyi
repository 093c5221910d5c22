"""The public names of `edgeexit`, stated once: for type checkers, and read by `edgeexit.common.lazy` at run time."""

from edgeexit.bench.profile import use_profile as use_profile
from edgeexit.bundle.bundle import Bundle as Bundle
from edgeexit.calibrate.on_device import solve_budget as solve_budget
from edgeexit.engine.decision import BatchDecision as BatchDecision
from edgeexit.engine.decision import Decision as Decision
from edgeexit.engine.engine import Engine as Engine
from edgeexit.engine.loading import load as load
from edgeexit.errors import BackendMissing as BackendMissing
from edgeexit.errors import BundleError as BundleError
from edgeexit.errors import DataError as DataError
from edgeexit.errors import EdgeExitError as EdgeExitError
from edgeexit.errors import ExportMismatch as ExportMismatch
from edgeexit.errors import Infeasible as Infeasible
from edgeexit.errors import ModelError as ModelError
from edgeexit.errors import PolicyError as PolicyError
from edgeexit.policy.operating_point import OperatingPoint as OperatingPoint
from edgeexit.policy.policies import Patience as Patience
from edgeexit.policy.policies import Policy as Policy
from edgeexit.policy.policies import Threshold as Threshold
from edgeexit.policy.policies import fixed_exit as fixed_exit
from edgeexit.records.classification import Records as Records
from edgeexit.records.classification import replay as replay
from edgeexit.version import __version__ as __version__
from edgeexit_exporters import export as export
from edgeexit_exporters.augment.flow import augment as augment
