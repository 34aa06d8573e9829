"""Building blocks with parameters or state: backbones, heads, prototypes and exponential moving averages."""
