"""What a page makes of being told where its camera shall stand."""

from typing import Any


def move(camera: Any, message: Any) -> None:
    """Do as viser's page does when it is told one of a camera's properties."""
    match type(message).__name__:
        case "SetCameraPositionMessage":
            camera.position = message.position
        case "SetCameraLookAtMessage":
            camera.look_at = message.look_at
        case "SetCameraUpDirectionMessage":
            camera.up_direction = message.position
        case "SetCameraFovMessage":
            camera.fov = message.fov
        case other:
            raise AssertionError(f"{other} is not of a camera.")
