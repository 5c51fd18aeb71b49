package sqlitebroker

const victimVariable = "HUB_TEST_VICTIM"

func victim(path string) {}
