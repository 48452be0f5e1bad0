# SPDX-License-Identifier: Apache-2.0
"""weave.toml, and that it is in force."""

import os

import salt.utils.files
import salt.utils.stringutils

# Exit codes of weavers.
SUCCESS = 0
CHANGES = 2
UNREACHABLE = 4


def config(name, config, timeout="60s"):
    """The file holds these keys, and the daemon has adopted them; where none runs it is validated and written.

    If the file is refused, or cannot be carried out to the end, the former one is put back and is in force again. With test=True `weavers plan`
    tells what would change, and a file that would be refused fails. Drop-ins, the files conf.d/*.toml beside it, are judged with it and
    are left as they are.
    """
    ret = {"name": name, "changes": {}, "result": True, "comment": "in force"}
    if not __salt__["weavers.installed"]():
        return dict(ret, result=None if __opts__["test"] else False, comment="weavers is not installed")
    old, new = _read(name), __salt__["weavers.render"](config)
    running, refused = _plan(ret, name, old, new, timeout)
    if refused:
        return refused
    if old != new:
        ret["changes"]["file"] = __utils__["stringutils.get_diff"]((old or "").splitlines(True), new.splitlines(True))
    if not ret["changes"]:
        return ret
    if __opts__["test"]:
        return dict(ret, result=None, comment="would be brought into force")
    _write(name, new)
    if running:
        refused = _apply(ret, name, old, new, timeout)
        if refused:
            return refused
    return dict(ret, comment="brought into force" if running else "written; no daemon runs")


def ready(name, timeout="60s"):
    """A container that is attached now is reachable."""
    ret = {"name": name, "changes": {}, "result": True, "comment": "ready"}
    if __opts__["test"]:
        return ret
    answer = __salt__["weavers.ask"]("status", "--wait", "ready", "--timeout", timeout)
    return ret if answer["retcode"] == SUCCESS else _refused(ret, answer)


def _plan(ret, name, old, new, timeout):
    """What the new file would change, into `ret`; whether a daemon runs, and the refusal if there is one."""
    ask = __salt__["weavers.ask"]
    # Beside the file, where its drop-ins are. The daemon takes no notice of other names.
    beside = os.path.dirname(name)
    fresh = salt.utils.files.mkstemp(prefix=".weave.toml.", dir=beside if os.access(beside, os.W_OK) else None)
    try:
        _write(fresh, new)
        answer = ask("validate", "--config", fresh)
        if answer["retcode"] != SUCCESS:
            return False, _refused(ret, answer)
        # `plan` looks by itself where no daemon runs, so it is `status` that tells.
        status = ask("status")
        if status["retcode"] == UNREACHABLE:
            return False, None
        if "config" not in status["document"]:
            return True, _refused(ret, status)
        answer = ask("plan", "--config", fresh, "--diff", "--detailed-exitcode", "--timeout", timeout)
    finally:
        os.remove(fresh)
    if answer["retcode"] not in (SUCCESS, CHANGES):
        return True, _refused(ret, answer)
    if answer["retcode"] == CHANGES:
        ret["changes"]["plan"] = answer["document"]["diff"]
    # A file that lies there and was not adopted is a change, even one that changes nothing on the host.
    stands = status["document"]["config"]
    if old == new and (stands["pending"] or stands["error"]):
        ret["changes"]["adopted"] = {"old": stands["error"] or "pending", "new": "in force"}
    return True, None


def _apply(ret, name, old, new, timeout):
    """Has the daemon adopt the file; the refusal if there is one."""
    ask = __salt__["weavers.ask"]
    answer = ask("apply", "--timeout", timeout)
    if answer["retcode"] != SUCCESS:
        if old != new and old is not None:
            _write(name, old)
            # A file that was adopted, but not carried out to the end, is given up again; one that was refused never was in force.
            ask("reload")
        elif old is None:
            os.remove(name)
        ret["changes"] = {}
        return _refused(ret, answer)
    needs_restart = ask("status")["document"].get("config", {}).get("needs_restart")
    if needs_restart:
        # Packets go on meanwhile.
        __salt__["service.restart"]("weavers")
        ret["changes"]["restarted for"] = needs_restart
    return None


def _refused(ret, answer):
    error = answer["document"].get("error") or {}
    said = [f"{_file(one)}, line {one['line']}: {one['key']}: {one['message']}" for one in error.get("problems") or []]
    said = said or [error.get("message")] if error else answer["document"].get("notes")
    comment = "; ".join(said or [f"weavers ended with {answer['retcode']}"])
    return dict(ret, result=False, comment="\n".join(part for part in (comment, error.get("hint")) if part))


def _file(problem):
    """The file that a problem is in; what is checked lies under a name of its own."""
    file = os.path.basename(problem["file"])
    return "weave.toml" if file.startswith(".weave.toml.") else file


def _read(path):
    if not os.path.exists(path):
        return None
    with salt.utils.files.fopen(path) as file:
        return salt.utils.stringutils.to_unicode(file.read())


def _write(path, text):
    """Replaces the file whole."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    fresh = path + ".new"
    with salt.utils.files.fopen(fresh, "w") as file:
        file.write(text)
    os.chmod(fresh, 0o644)
    os.replace(fresh, path)
