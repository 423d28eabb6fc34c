"""``xdit-dualparal bench``: all strategies side by side, in whole commands of the launcher."""
