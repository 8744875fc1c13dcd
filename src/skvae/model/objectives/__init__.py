"""From Terms to Losses."""

from skvae.model.objectives.base import Losses, Objective, Penalty
from skvae.model.objectives.dip import DIPVAE
from skvae.model.objectives.elbo import ELBO
from skvae.model.objectives.factor import FactorVAE
from skvae.model.objectives.geco import GECO
from skvae.model.objectives.iwae import IWAE
from skvae.model.objectives.label_spreading import LabelSpreading
from skvae.model.objectives.mmd import MMD
from skvae.model.objectives.neighbours import Neighbours
from skvae.model.objectives.rae import RAE
from skvae.model.objectives.sums import Regulariser, Sum
from skvae.model.objectives.supervised import Supervised
from skvae.model.objectives.total_correlation import BetaTCVAE

__all__ = [
    "DIPVAE",
    "ELBO",
    "GECO",
    "IWAE",
    "MMD",
    "RAE",
    "BetaTCVAE",
    "FactorVAE",
    "LabelSpreading",
    "Losses",
    "Neighbours",
    "Objective",
    "Penalty",
    "Regulariser",
    "Sum",
    "Supervised",
]
