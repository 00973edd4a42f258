"""Network parts with parameters, as Flax linen modules. Layout is NHWC throughout."""
