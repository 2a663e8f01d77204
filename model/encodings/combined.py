def uses(e, h):
    return True
