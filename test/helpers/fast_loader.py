"""Whether `--loader fast` works here."""

import pytest

from pipeline import fast_reading
from runtime.errors import UserError

try:
    fast_reading.check()
    missing = ""
except UserError as error:
    missing = str(error)
with_libraries = pytest.mark.skipif(bool(missing), reason=missing)
