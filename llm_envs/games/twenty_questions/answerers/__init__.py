"""Who answers: the table (`knowledge_answerer`) or a model (`llm_answerer`); `answers` is the contract of both."""
