"""What `identityd check` looks at, a file for each family.

Nothing here changes anything, and every look is bounded. It works beside a running service and without one.
"""
