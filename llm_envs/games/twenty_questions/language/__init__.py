"""Yes/no questions in English: `understanding` is the way in; `phrases_*.txt` say how each attribute is spoken of."""
