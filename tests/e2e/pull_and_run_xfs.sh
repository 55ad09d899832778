#!/bin/bash
# The main job on xfs instead of ext4.
# guest: --new-disk 8G
FS_TYPE=xfs exec "$(dirname "$0")/pull_and_run.sh"
