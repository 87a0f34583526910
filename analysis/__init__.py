"""What is made of run folders: tables, findings in sentences, the gallery and its one page."""
