"""The project's package ``blocks``, under a name that no other project has. Loading a pickled block imports it by this name."""

import sys
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec

from resonant.local.project import project_directory

_folder = project_directory() / "blocks"
_loader = SourceFileLoader(__name__, str(_folder / "__init__.py"))
_spec = ModuleSpec(__name__, _loader, is_package=True)
_spec.submodule_search_locations = [str(_folder)]  # its modules import each other relatively
# The package takes the place of this module.
sys.modules[__name__] = module_from_spec(_spec)
_loader.exec_module(sys.modules[__name__])
