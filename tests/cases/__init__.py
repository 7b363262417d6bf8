"""THE tables: problems with known answers, bounds, guides, models, priors, likelihoods. Property tests run over them.

A problem has a handful of rows with a closed-form log evidence. `Problem.tiled(R)` repeats the rows R times:
rows are independent given the model, so one pass gives R independent replicates of every row's bound.
"""

from cases.bounds import *
from cases.counts import *
from cases.gaussian import *
from cases.guides import *
from cases.labels import *
from cases.likelihoods import *
from cases.models import *
from cases.priors import *
from cases.problem import *
from cases.problems import *
from cases.programs import *
