# SPDX-License-Identifier: Apache-2.0
"""The program weavers, and its configuration file."""

import json

import salt.utils.path

HEADER = "# Managed by Salt: what is changed here by hand is overwritten.\n"


def installed():
    """Whether the program is there."""
    return bool(salt.utils.path.which("weavers"))


def ask(*words):
    """Runs it with --json: its exit code, and its document.

    CLI example: salt HOST weavers.ask status
    """
    done = __salt__["cmd.run_all"](["weavers", *words, "--json"], python_shell=False, ignore_retcode=True)
    try:
        document = json.loads(done["stdout"])
    except ValueError:
        document = {"error": {"message": done["stderr"] or f"weavers {words[0]} ended with {done['retcode']}"}}
    return {"retcode": done["retcode"], "document": document}


def render(config):
    """The text of weave.toml."""
    return HEADER + _table(config)


# Strings, numbers, booleans and lists of JSON are those of TOML.
def _table(table, prefix=""):
    lines, tables = [], []
    for key, value in table.items():
        if isinstance(value, dict):
            tables.append(f"\n[{prefix}{key}]\n{_table(value, prefix + key + '.')}")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            tables += [f"\n[[{prefix}{key}]]\n{_table(item, prefix + key + '.')}" for item in value]
        elif value is not None:
            lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}\n")
    return "".join(lines + tables)
