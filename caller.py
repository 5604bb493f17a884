"""Who asks: made once for a request, by `api.http.identity`, and taken by every method inside."""

from typing import NamedTuple


class Caller(NamedTuple):
    """A user within a tenant. What somebody makes belongs to the caller who made it.

    Without credentials there is one tenant, and its users are names that requests give.
    """

    tenant: str
    user: str

    def named(self, user: str | None) -> "Caller":
        """Return the caller as the user that the request names, if it names one."""
        return self if user is None else self._replace(user=user)

    def may_see(self, owner: "Caller") -> bool:
        """Tell whether what belongs to `owner` is there for this caller.

        A run is looked for by its id, which nobody can guess, and a request for it names no user.
        So within a tenant whoever has the id may see the run.
        """
        return self.tenant == owner.tenant
