"""Sizes: how many devices a job takes, as people write it: `4`, a range `2-8`, or `0.25` of one device."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from dljobs.errors import UsageError

MAX_DEVICES = 4096
_WHOLE = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?")
_PART = re.compile(r"0?\.(\d{1,2})")


@dataclass(frozen=True, slots=True)
class Size:
    """So many devices, from the least that will do to the most that are of use; or a part of one."""

    num_devices: int = 1
    min_devices: int = 1
    share_percent: int = 100  # less than 100: a part of one device

    def __str__(self) -> str:
        if self.share_percent < 100:
            return f"{self.share_percent / 100:g}"
        return str(self.num_devices) if self.is_fixed else f"{self.min_devices}-{self.num_devices}"

    @property
    def is_fixed(self) -> bool:
        """Whether no other number of devices will do."""
        return self.min_devices == self.num_devices


def parse_size(text: str) -> Size:
    """What `--gpus` means.

    Raises:
        UsageError: it is no number of devices, no range of them, and no part of one.
    """
    text = text.strip()
    if (part := _PART.fullmatch(text)) and int(part[1]):
        return Size(share_percent=int(part[1].ljust(2, "0")))
    if (whole := _WHOLE.fullmatch(text)) and int(whole[1]):
        least = int(whole[1])
        most = int(whole[2] or least)
        if most < least:
            raise UsageError(f"--gpus: the range {text} ends below its beginning", f"did you mean {most}-{least}?")
        return Size(most, least)
    raise UsageError(f"--gpus: {text[:40]!r} is no number of devices", _nearest(text))


def _nearest(text: str) -> str:
    """The hint for what is no size: the sizes on either side of a number, else how one is written."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        return "write 4, a range 2-8, or 0.25 of one device"
    if 0 < number < 1:
        percent = max(number * 100, Decimal(1))
        around = [Size(share_percent=each) for each in (math.floor(percent), math.ceil(percent))]
    else:
        whole = min(max(number, Decimal(1)), Decimal(MAX_DEVICES))
        around = [Size(each, each) for each in (math.floor(whole), math.ceil(whole))]
    return f"nearest: --gpus {' or '.join(dict.fromkeys(str(each) for each in around))}"


def show_size(num_devices: int, share_percent: int = 100) -> str:
    """As one says it: `4 devices`, `0.25 of a device`."""
    if share_percent < 100:
        return f"{share_percent / 100:g} of a device"
    return f"{num_devices} device{'' if num_devices == 1 else 's'}"
