"""The little language of `hwloop exec`, which is qemu-io's: `read -P 0xaa 0 4k`."""
