"""One module for each layout that data are found in; :mod:`teva_data.conversion` tells what it has to have."""
