"""The program's own miniatures of SD 1.x, SD 2 and SDXL."""

from lorasmith.demo import miniature
from tests.families.made_once import made_once

make_model = made_once(miniature.make_model)
