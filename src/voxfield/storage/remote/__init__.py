"""Files anywhere fsspec reaches: `local` fetches what lies at a URL, `published` puts there what a job writes."""

from voxfield.storage.remote.mirror import (
    Onlooker,
    Place,
    local,
    published,
    publishing_back,
    shown,
    told_by_url,
    watched_by,
)
from voxfield.storage.urls import url_of

__all__ = ["Onlooker", "Place", "local", "published", "publishing_back", "shown", "told_by_url", "url_of", "watched_by"]
