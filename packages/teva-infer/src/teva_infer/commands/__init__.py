"""The verbs of `teva-infer`: thin skins over the functions of the package, which they import when they are called."""
