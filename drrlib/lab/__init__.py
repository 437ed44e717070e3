"""The laboratory of the notebooks: phantoms, data sets, detectors, studies, tables and figures.

The core never imports it. It needs the extra: pip install drrlib[lab].
"""
