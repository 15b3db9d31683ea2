"""The saved configuration of the Linux kernel's target, as targetcli and rtslib-fb write it, taken over by annex."""
