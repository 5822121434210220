"""The methods of optical flow, and what is measured on flow: camera, things, geometry."""
