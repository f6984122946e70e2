"""From bin photos to an evaluated model archive, and the decision whether it replaces the old one."""
