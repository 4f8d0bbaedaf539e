"""The interactive figures: a chapter's cell calls one function of this package, which returns an `Explorer`.

One file per chapter, `ch05.py` and so on, each with the explorers of that chapter; `base.py` holds what they are made of,
and says how to add one.
"""

# ruff: noqa: F401
from .base import MAX_BYTES, Band, Bars, Choice, Explorer, Frame, Line, Panel, Points, Slider, Text, sig
from .ch01 import reverse_process_explorer
from .ch02 import kl_explorer, product_explorer
from .ch03 import elbo_explorer
from .ch04 import forward_process_explorer
from .ch05 import posterior_explorer
from .ch06 import diffusion_elbo_explorer
from .ch07 import coordinates_explorer
from .ch08 import reverse_variance_explorer
from .ch09 import decoder_explorer
from .ch10 import unet_explorer
from .ch11 import average_explorer
from .ch12 import branching_explorer
from .ch13 import precision_recall_explorer
from .ch14 import clinic_explorer
from .ch15 import score_matching_explorer
from .ch16 import langevin_explorer
from .ch17 import sde_or_ode_explorer
from .ch18 import ddim_explorer
from .ch19 import importance_explorer
from .ch20 import snr_explorer
from .ch21 import guidance_explorer
from .ch22 import replacement_explorer
from .ch23 import independence_explorer
