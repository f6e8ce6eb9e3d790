"""Files wherever they lie: on this machine, or at URLs of object storage, with a bounded cache of what was read."""
