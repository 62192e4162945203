"""What training and testing add to mmengine's Runner."""
