"""What must not be published: malformed names, weights without a licence, tags that would have to move."""

import re

from huggingface_hub import HfApi

from ssl_zoo.hub.remote import Changes, Remote
from ssl_zoo.hub.sources import Source
from ssl_zoo.models.registry import display_name


__all__ = ["refuse", "refuse_names", "refuse_place", "refuse_tag", "without_licence"]

_NAME = r"(?![-.])[A-Za-z0-9._-]+(?<![-.])"
_REPO_ID = re.compile(rf"(?!.*(--|\.\.))(?!.*\.git$){_NAME}/{_NAME}")
# Names of branches and tags that git accepts and no shell needs quoted.
_REF = re.compile(r"(?!refs/)(?!.*(\.\.|//|/\.|\.lock(/|$)))[A-Za-z0-9_][A-Za-z0-9._/+-]*(?<![./])")


def refuse_names(repo_id: str, branch: str, tag: str | None, *, api: HfApi | None = None) -> str | None:
    """Say which of the names is malformed, if any.

    Args:
        repo_id (`str`): Should be `"org/name"`.
        branch (`str`): Should be a name that git accepts.
        tag (`str`, *optional*): The same.
        api (`HfApi`, *optional*): Asked for the user's name where the id lacks it.
    """
    for kind, name in (("branch", branch), ("tag", tag)):
        if name is not None and not _REF.fullmatch(name):
            return f"'{name}' can't be the name of a {kind}: expected letters, digits, '.', '_', '-' and '/'"
    if _REPO_ID.fullmatch(repo_id) and len(repo_id) <= 96:
        return None
    hint = ""
    if api is not None and re.fullmatch(_NAME, repo_id):
        try:
            hint = f". Yours would be '{api.whoami()['name']}/{repo_id}'"
        except Exception:  # a hint isn't worth an error of its own
            hint = ""
    return (
        f"'{repo_id}' is not the id of a repository: expected org/name, each of letters, digits, '-', '_' and '.', "
        f"not beginning or ending with '-' or '.', without '--' and '..', 96 characters at most{hint}"
    )


def without_licence(source: Source) -> str:
    """Say why converted weights without a licence can't be public, and what can be done."""
    where = ((source.conversion or {}).get("license") or {}).get("where")
    return (
        f"The authors of {display_name(source.method)} released these weights without a licence"
        f"{f' ({where})' if where else ''}, so nobody else may make them public: publish to a private repository "
        f"(--private), or, if the authors have given you their permission, repeat with --i-have-permission"
    )


def refuse_place(remote: Remote, repo_id: str, *, private: bool) -> str | None:
    """Say why a repository of that name can't be published to: it has another name now, or is public."""
    if remote.repo_id != repo_id:
        return f"'{repo_id}' is called '{remote.repo_id}' now: publish to that name"
    if remote.exists and private and not remote.private:
        return (
            f"'{repo_id}' exists and is public, so publishing to it would not be private: choose another name, or "
            f"make it private in its settings"
        )
    return None


def refuse(
    remote: Remote, source: Source, repo_id: str, branch: str, tag: str | None, *, private: bool, with_permission: bool
) -> str | None:
    """Say why these weights must not be published to this repository, if so."""
    if problem := refuse_place(remote, repo_id, private=private):
        return problem
    public = not (remote.private if remote.exists else private)
    if public and source.is_unlicensed and not with_permission:
        return without_licence(source)
    if branch in remote.tags or branch == tag:
        return f"'{branch}' is the name of a tag, so a branch of that name would hide it: choose another branch"
    if tag in remote.branches:
        return f"'{tag}' is the name of a branch, so a tag of that name would hide it: choose another tag"
    return None


def refuse_tag(remote: Remote, branch: str, tag: str | None, changes: Changes) -> str | None:
    """Say why a version can't have this tag, if it names another one."""
    if tag is None or tag not in remote.tags:
        return None
    if remote.tags[tag] == remote.branches.get(branch) and not changes:
        return None
    number = re.search(r"\d+$", tag)
    stem, count = (tag[: number.start()], int(number[0])) if number else (f"{tag}-", 1)
    while f"{stem}{count}" in remote.tags or f"{stem}{count}" == tag:
        count += 1
    return (
        f"The tag '{tag}' of '{remote.repo_id}' is at another commit, {remote.tags[tag][:12]}, and tags never move: "
        f"others rely on what it names. Choose a new one, such as --tag {stem}{count}"
    )
