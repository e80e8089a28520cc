"""`python -m stackflower`, which is what `accelerate launch -m stackflower` runs."""

from stackflower.cli import main

main()
