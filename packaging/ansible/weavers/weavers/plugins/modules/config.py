#!/usr/bin/python
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

DOCUMENTATION = r"""
module: config
short_description: Writes weave.toml and brings it into force
description:
  - Validates the file, writes it, and has the daemon adopt it by C(weavers apply).
  - If the file is refused, or not all of it can be carried out, the former file is put back, and is in force again, after O(confirm_timeout) at the latest.
  - In check mode C(weavers plan) tells what the new file would change on the host and in the route tables, and nothing is changed. A file that
    would be refused fails in check mode, too.
  - Where no daemon runs, the file is validated and written.
  - Drop-ins, the files C(conf.d/*.toml) beside it, are judged with it and are left as they are.
version_added: 0.1.0
author: weavers authors (@weavers)
options:
  config:
    description: The keys of weave.toml, as they stand there.
    type: dict
  content:
    description: The whole text of the file, instead of O(config).
    type: str
  path:
    description: Where the file is.
    type: path
    default: /etc/weave/weave.toml
  timeout:
    description: Seconds to wait until nothing is left to do.
    type: int
    default: 60
  confirm_timeout:
    description:
      - Seconds after which the host goes back to the former configuration unless C(weavers confirm) follows. RV(trial) tells whether it is awaited.
      - V(0) keeps the new one at once.
    type: int
    default: 0
attributes:
  check_mode:
    description: Changes nothing, and tells what would be changed.
    support: full
  diff_mode:
    description: Of the file, and of what it changes on the host and in the route tables.
    support: full
"""

EXAMPLES = r"""
- name: Bring the configuration into force
  weavers.weavers.config:
    config:
      peers: [10.0.1.11, 10.0.1.12, 10.0.1.13]
      network:
        mtu: auto
      ipam:
        range: 10.32.0.0/12
        expected_peers: 3
"""

RETURN = r"""
running:
  description: Whether a daemon runs.
  type: bool
  returned: where weavers is installed
plan:
  description: What the file changes, as C(weavers plan --json) prints it.
  type: dict
  returned: where a daemon runs
needs_restart:
  description: Keys whose new value is read when the daemon starts.
  type: list
  elements: str
  returned: where a daemon runs
trial:
  description: Whether C(weavers confirm) is awaited.
  type: bool
  returned: where a daemon runs
restored:
  description: Whether the former file was put back.
  type: bool
  returned: on failure of C(weavers apply)
"""

import json
import os
import tempfile

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.text.converters import to_bytes, to_text

# Exit codes of weavers.
SUCCESS = 0
CHANGES = 2
UNREACHABLE = 4

HEADER = "# Managed by Ansible: what is changed here by hand is overwritten.\n"


def render(table, prefix=""):
    """A table of TOML. Strings, numbers, booleans and lists of JSON are those of TOML."""
    lines, tables = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            tables.append("\n[%s%s]\n%s" % (prefix, key, render(value, prefix + key + ".")))
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            tables += ["\n[[%s%s]]\n%s" % (prefix, key, render(item, prefix + key + ".")) for item in value]
        elif value is not None:
            lines.append("%s = %s\n" % (key, json.dumps(value, ensure_ascii=False)))
    return "".join(lines + tables)


def name(problem):
    """The file that a problem is in; what is checked lies under a name of its own."""
    file = os.path.basename(problem["file"])
    return "weave.toml" if file.startswith(".weave.toml.") else file


class Weavers:
    """The program on this host."""

    def __init__(self, module, program):
        self.module, self.program = module, program

    def ask(self, *words):
        """Its exit code, and its document."""
        code, out, err = self.module.run_command([self.program, *words, "--json"])
        try:
            return code, json.loads(out)
        except ValueError:
            return code, {"error": {"message": err.strip() or "weavers %s ended with %d" % (words[0], code)}}

    def config(self):
        """How the daemon stands to its file; nothing where none runs."""
        code, status = self.ask("status")
        if code == UNREACHABLE:
            return None
        return status.get("config") or self.refuse(code, status)

    def refuse(self, code, document, **more):
        error = document.get("error") or {}
        told = error.get("problems") or []
        problems = ["%s, line %s: %s: %s" % (name(one), one["line"], one["key"], one["message"]) for one in told]
        # A plan that rests on something unread has notes in place of an error.
        said = problems or [error.get("message")] if error else document.get("notes")
        message = "; ".join(said or ["weavers ended with %d" % code])
        self.module.fail_json(msg=message, hint=error.get("hint"), rc=code, document=document, **more)


def read(path):
    if not os.path.exists(path):
        return None
    with open(path, "rb") as file:
        return file.read()


def put(module, path, content):
    """Replaces the file whole, or removes it."""
    if content is None:
        os.remove(path)
        return
    descriptor, fresh = tempfile.mkstemp(dir=module.tmpdir)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    os.chmod(fresh, 0o644)
    module.atomic_move(fresh, path)


def apply(weavers, path, old, new):
    """Writes the file and has the daemon adopt it; how the daemon stands to it then."""
    params = weavers.module.params
    if old != new:
        put(weavers.module, path, new)
    words = ["apply", "--timeout", "%ds" % params["timeout"]]
    if params["confirm_timeout"]:
        words += ["--confirm-timeout", "%ds" % params["confirm_timeout"]]
    code, document = weavers.ask(*words)
    if code == SUCCESS:
        return weavers.config()
    if old != new:
        put(weavers.module, path, old)
        # A file that was adopted, but not carried out to the end, is given up again; one that was refused never was in force. A trial ends by
        # itself, and refuses this.
        if old is not None:
            weavers.ask("reload")
    return weavers.refuse(code, document, restored=old != new)


def main():
    module = AnsibleModule(
        argument_spec=dict(
            config=dict(type="dict"),
            content=dict(type="str"),
            path=dict(type="path", default="/etc/weave/weave.toml"),
            timeout=dict(type="int", default=60),
            confirm_timeout=dict(type="int", default=0),
        ),
        mutually_exclusive=[("config", "content")],
        required_one_of=[("config", "content")],
        supports_check_mode=True,
    )
    path, text = module.params["path"], module.params["content"]
    new = to_bytes(HEADER + render(module.params["config"]) if text is None else text)
    old = read(path)
    result = dict(changed=old != new, diff=[dict(
        before_header=path, after_header=path, before=to_text(old or b""), after=to_text(new))])

    program = module.get_bin_path("weavers", required=not module.check_mode)
    if not program:
        module.exit_json(msg="weavers is not installed yet: the file is not validated", **result)
    weavers = Weavers(module, program)

    # Beside the file, where its drop-ins are. The daemon takes no notice of other names.
    beside = os.path.dirname(path)
    beside = beside if os.access(beside, os.W_OK) else module.tmpdir
    descriptor, fresh = tempfile.mkstemp(dir=beside, prefix=".weave.toml.")
    module.add_cleanup_file(fresh)
    with os.fdopen(descriptor, "wb") as file:
        file.write(new)
    code, document = weavers.ask("validate", "--config", fresh)
    if code != SUCCESS:
        weavers.refuse(code, document)

    # `plan` looks by itself where no daemon runs, so it is `status` that tells.
    config = weavers.config()
    result["running"] = config is not None
    if config:
        wait = "%ds" % module.params["timeout"]
        code, plan = weavers.ask("plan", "--config", fresh, "--diff", "--detailed-exitcode", "--timeout", wait)
        if code not in (SUCCESS, CHANGES):
            weavers.refuse(code, plan)
        result["plan"] = plan
        # A file that lies there and was not adopted is a change, even one that changes nothing on the host.
        result["changed"] |= code == CHANGES or config["pending"] or config["error"] is not None
        result["diff"] += plan.get("diff", [])

    if result["changed"] and not module.check_mode:
        if config:
            config = apply(weavers, path, old, new)
        else:
            put(module, path, new)
    if config:
        result.update(needs_restart=config["needs_restart"], trial=config["trial_s"] is not None)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
