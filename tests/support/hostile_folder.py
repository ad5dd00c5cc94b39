"""A working folder with files that would run code if a command read its settings there."""

from collections.abc import Callable

from support.machine import Machine

# Prefect gives this file to Python's logging, which calls the functions that it names.
LOGGING = """
version: 1
disable_existing_loggers: false
handlers:
  evil: {{(): os.system, command: "touch {witness}"}}
loggers:
  prefect: {{handlers: [evil]}}
"""
SETTINGS = {
    ".env": "PREFECT_LOGGING_SETTINGS_PATH={path}\nPREFECT_PROFILES_PATH=evil.toml\n",
    "evil.toml": 'active = "evil"\n[profiles.evil]\nPREFECT_LOGGING_SETTINGS_PATH = "{path}"\n',
    "prefect.toml": '[logging]\nconfig_path = "{path}"\n',
    "pyproject.toml": '[tool.prefect.logging]\nconfig_path = "{path}"\n',
}


def make_hostile(machine: Machine) -> Callable[[], bool]:
    """Write the files into the working folder of every command; return a function that tells whether their code ran."""
    witness, path = machine.home / "witness", machine.home / "evil.yml"
    path.write_text(LOGGING.format(witness=witness))
    for name, text in SETTINGS.items():
        (machine.home / name).write_text(text.format(path=path))
    return witness.exists
