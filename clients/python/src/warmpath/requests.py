"""What an application asks of Warmpath, in its own transaction: it takes effect when that commits, and not when it is rolled back.

Each function takes a connection (or a cursor) that the caller writes with, of psycopg 3 or psycopg2; the async_* functions one of
asyncpg or psycopg's AsyncConnection. The role needs the grants of `app_role` in deploy/roles.sql.
"""
from __future__ import annotations

from typing import Any


def invalidate(conn: Any, user_id: str, bot_name: str | None = None, reason: str = "invalidate") -> None:
    """The rows of the user with the bot, or with every bot, are wrong: from the commit on readers see `invalid`, until they have been
    computed again, which follows at once. reason: a few words that the feed shows; never a user's."""
    _run(conn, "SELECT strategic_invalidate(%s, %s, %s)", user_id, bot_name, reason)


def touch(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    """The user is about to write (is typing, has opened the chat): rows that are not young are renewed."""
    _run(conn, "SELECT strategic_touch(%s, %s)", user_id, bot_name)


def recompute(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    """The rows are computed again; readers see the old ones until then."""
    _run(conn, "SELECT strategic_recompute(%s, %s)", user_id, bot_name)


def forget(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    """Erases everything that is known about the user, with one bot or with all. Delete the messages themselves in the same
    transaction: what is still in the source tables would be counted again by a rebuild."""
    _run(conn, "SELECT strategic_forget(%s, %s)", user_id, bot_name)


async def async_invalidate(conn: Any, user_id: str, bot_name: str | None = None, reason: str = "invalidate") -> None:
    await _run_async(conn, "SELECT strategic_invalidate(%s, %s, %s)", user_id, bot_name, reason)


async def async_touch(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    await _run_async(conn, "SELECT strategic_touch(%s, %s)", user_id, bot_name)


async def async_recompute(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    await _run_async(conn, "SELECT strategic_recompute(%s, %s)", user_id, bot_name)


async def async_forget(conn: Any, user_id: str, bot_name: str | None = None) -> None:
    await _run_async(conn, "SELECT strategic_forget(%s, %s)", user_id, bot_name)


def _run(conn: Any, sql: str, *args: str | None) -> None:
    if hasattr(conn, "cursor"):
        with conn.cursor() as cursor:
            cursor.execute(sql, args)
    else:
        conn.execute(sql, args)


async def _run_async(conn: Any, sql: str, *args: str | None) -> None:
    if hasattr(conn, "fetchrow"):
        for i in range(len(args)):
            sql = sql.replace("%s", f"${i + 1}", 1)
        await conn.execute(sql, *args)
    else:
        await conn.execute(sql, args)
