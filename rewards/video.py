def score(*a): raise NotImplementedError
def score_files(*a): raise NotImplementedError
