"""The options and environment variables. No other package of the core reads the environment."""

from tgi.config.checks import (
    bind_address,
    check_options,
    check_output_file,
    notes_on_options,
    num_shard_of,
)
from tgi.config.documentation import options_help, options_page
from tgi.config.environment import (
    Environment,
    process_environment,
    read_environment,
    without_secrets,
)
from tgi.config.meanings import REJECTABLE_OPTIONS, option_meaning
from tgi.config.option import Option
from tgi.config.options import OPTIONS, ServeOptions
from tgi.config.parser import ParsedArguments, UsageError, parse_arguments, similar
from tgi.config.plugin_options import PluginOption, read_plugin_options

__all__ = [
    "OPTIONS",
    "REJECTABLE_OPTIONS",
    "Environment",
    "Option",
    "ParsedArguments",
    "PluginOption",
    "ServeOptions",
    "UsageError",
    "bind_address",
    "check_options",
    "check_output_file",
    "notes_on_options",
    "num_shard_of",
    "option_meaning",
    "options_help",
    "options_page",
    "parse_arguments",
    "process_environment",
    "read_environment",
    "read_plugin_options",
    "similar",
    "without_secrets",
]
