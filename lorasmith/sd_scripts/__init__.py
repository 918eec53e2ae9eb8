"""The command line of sd-scripts' scripts that train LoRAs, as settings of a run.

`arguments` lists what their parsers take, `table` what becomes of each argument here, `translate` the settings that a
command line stands for. Knows no sentences: reasons and notes are codes.
"""
