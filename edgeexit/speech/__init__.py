"""Speech on the device: audio -> features -> the exits of a CTC model -> text; numpy and the standard library only.

Import what you need from its modules; this one stays empty, so that bundles without speech pay nothing.
"""
