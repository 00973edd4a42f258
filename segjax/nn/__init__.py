"""Network parts with parameters, as Flax linen modules. All layouts are NHWC."""
