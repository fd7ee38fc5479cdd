"""One module per command of `lmx`, each with the `app` that typer runs; imported only when the command is used."""
