"""What every layer needs of the machine that it runs on: files, texts on a terminal, folders of the user's own."""
