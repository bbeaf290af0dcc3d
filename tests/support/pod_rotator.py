"""`rotator` as in a pod: $SERVICE_ACCOUNT is the folder that is mounted there. It is run as a program."""

import os
from pathlib import Path

from rotator.cli.main import main
from rotator.runtime import kubernetes as kube

if __name__ == "__main__":
    kube.SERVICE_ACCOUNT = Path(os.environ["SERVICE_ACCOUNT"])
    main()
